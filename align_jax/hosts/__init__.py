"""How the processes of one run find and check each other before they compute together."""
