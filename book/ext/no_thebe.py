"""Sphinx extension: leaves thebe out of every page. The book does not use it, Jupyter Book adds it twice, which is an
error in the browser, and what it would load comes from another host.
"""


def leave_out(app, pagename, templatename, context, doctree):
    def is_thebe(script):
        words = f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"
        return "thebe" in words.lower()

    context["script_files"] = [script for script in context.get("script_files", []) if not is_thebe(script)]


def setup(app):
    app.connect("html-page-context", leave_out, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
