"""`worldsheet report`: everything that runs have saved, as one page that needs nothing else; knows plotly."""
