"""The local web view: runs in a browser while they happen, and labels from people."""
