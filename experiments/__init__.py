"""What produces tables, plots and reports: `python -m experiments.<name>`. Nothing of it is in the wheel."""
