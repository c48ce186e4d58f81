"""The verbs of the command line, one module each. A module is imported when its verb is called."""
