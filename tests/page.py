"""What a test asks about an HTML document."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what a test asks about a document."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.attributes, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))
