"""Where bytes lie. One port (base.py), four backends."""
