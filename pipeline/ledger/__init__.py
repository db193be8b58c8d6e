"""The database is the truth. models.py: tables; queries.py: all the SQL; session.py: the only commit."""
