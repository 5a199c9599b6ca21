"""Text: documents, chats, token windows and packed streams."""
