"""Everything after the first byte has landed. Read flow.py first."""
