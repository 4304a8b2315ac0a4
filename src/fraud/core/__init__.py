"""What serving, batch, stream and browser share. No I/O; imports only numpy and the standard library."""
