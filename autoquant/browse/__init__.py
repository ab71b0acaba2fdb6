"""What the app in the browser needs below its pages; nothing here draws a widget."""
