"""The database is the truth. models.py: tables; queries/: all the SQL; session.py: the only commit."""
