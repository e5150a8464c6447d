"""The shell: data sets, training runs, pictures and the command line; names from strings exist only here."""
