"""From files on disk to a `Split`: format readers, ledger of every label row, near duplicates, built-in scenes."""
