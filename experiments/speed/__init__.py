"""What `python -m experiments.benchmark` measures, one function for each probe (`experiments.speed.probe`).

Nothing here imports anything else of `experiments`, so that it can measure another checkout, older ones too. No machine
is quite idle: what is compared is measured in turns within one process.
"""
