"""Starting the processes of one job, on one machine or on several, and noticing when one of them is lost."""
