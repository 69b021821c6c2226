"""The simulator beside a real server: the same requests under the same policies by both, and how far they are apart."""
