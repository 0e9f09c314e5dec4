"""A live process put back to an earlier dump of itself.

present  ->  findings of state, files, mappings, pages  ->  refuse, or change with everything ready to be undone
"""
