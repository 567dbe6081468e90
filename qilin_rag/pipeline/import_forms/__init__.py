"""Forms of other tools' files that `import-answers` reads, a module each."""
