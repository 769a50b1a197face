"""The workspace: files, patches and test runs, inside the folders that the owner gave."""
