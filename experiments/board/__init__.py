"""The board: policies that somebody hands in, judged by playing them again, and a page of all that were played."""
