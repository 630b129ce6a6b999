"""The one database all daemons share: sessions, tables, queries and migrations."""
