"""The vector store on a Qdrant server.

The collection `docs` is there the alias `variet-docs` of a collection `variet-docs.<hex>`, whose
metadata say what it was built with. A rebuild fills a second one, then moves the alias, which the
server does in one step. The ranking is asked for as of `edge`: exact below the server's
`indexing_threshold`, by its HNSW graph above it, where the dense ranking may miss a passage.

Only collections that carry our note are ever changed or removed. One orchestrator at a time may
use them: at its start a second one would undo the first one's running rebuild.

Checked against qdrant-client's local mode and Qdrant's description of its API; not run on a
server.
"""
