"""From a delivered file to the lake: landing zone, mapping, validation, quarantine, labels."""
