"""`python -m sateen.formats` prints the table of docs/formats.md."""

from sateen.formats.catalog import markdown_table

print(markdown_table())
