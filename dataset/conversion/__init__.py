"""Files of other forms as JSON Lines of chat rows: JSON arrays, Alpaca, ShareGPT, prompt and completion, CSV and TSV.

`recognise` says what a file is and gives its rows. A row that cannot be mapped is told with its line and a reason, and
never left out silently.
"""
