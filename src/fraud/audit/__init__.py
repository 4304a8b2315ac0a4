"""From an answer to its evidence: the prediction log in the lake, receipts, replay."""
