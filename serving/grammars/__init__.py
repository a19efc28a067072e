"""What a reply is held to: a schema, a regular expression or a grammar, on its way from the request to the engine.

Begin with `request`: what may be asked for. `json_schema` says what cannot be held to and where it stands,
`grammars` compiles and keeps. `serving.engine.constraints` is what comes out of it.
"""
