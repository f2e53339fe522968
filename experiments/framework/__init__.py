"""What every experiment stands on: run folders, reports, the claims table, the command line."""
