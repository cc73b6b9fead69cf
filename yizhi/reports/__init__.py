"""What a person reads: tables, the report page, and how things are described."""
