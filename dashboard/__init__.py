"""The page: what a browser shows of the API.

It holds no authority and knows nothing that the API does not tell: every view asks the public routes, in process, with the viewer's own
cookie. It imports none of the other folders; `api/app.py` hands it the app. Begin with `views`, then `templates/base.html`.
"""
