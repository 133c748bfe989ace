"""Where a case runs: one file per vendor or runtime behind one protocol, with evidence of what ran."""
