"""`python -m experiments`, from the root of the source tree: list, run and tabulate the claims."""

from experiments.harness.command import experiments

if __name__ == "__main__":
    experiments(prog_name="python -m experiments")
