"""Where the tasks of a command run: by threads of this machine, or by the processes of a Ray cluster."""
