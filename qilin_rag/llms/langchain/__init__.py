"""Chat models of LangChain."""
