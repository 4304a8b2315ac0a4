"""The served version: download, verification, swap, reasons and the challenger."""
