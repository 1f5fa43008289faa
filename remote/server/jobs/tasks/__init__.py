"""Tasks: what is done with content that nobody vouches for; each module runs alone in a confined process.

They import nothing of the server. What they need is loaded when they are, for later nothing can be opened.
"""
