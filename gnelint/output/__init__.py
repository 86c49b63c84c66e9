"""What is found, for people and programs: text, HTML, JSON, SARIF, GitHub, JUnit and Markdown."""
