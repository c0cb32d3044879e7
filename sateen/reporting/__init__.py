"""The HTML report: its page, its drawings, and the tables that it shows."""
