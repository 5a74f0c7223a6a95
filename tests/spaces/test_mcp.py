"""The endpoints of both Spaces as tools of the Model Context Protocol."""

import asyncio

import pytest

pytestmark = pytest.mark.slow
TOOLS = {
    "composer": ({"parse_prompt", "generate", "continue_midi", "regenerate_bars", "export_musicxml", "render_audio"},
                 "parse_prompt", {"prompt": "slow jazz"}, "Jazz"),
    "loops": ({"encode", "decode", "sample", "interpolate", "similar", "attribute"}, "sample", {"count": 1},
              "num_notes"),
}  # fmt: skip


@pytest.mark.parametrize("space", TOOLS)
def test_tools_are_listed_and_called(space, serve_space, small_models, loops_models):
    pytest.importorskip("mcp", reason="MCP needs the extra of this name: pip install 'partimento[mcp]'")
    names, tool, arguments, words = TOOLS[space]
    models = small_models if space == "composer" else {"MODEL_ID": loops_models["mel"]}
    with serve_space(space, ENABLE_MCP="1", **models) as (url, _):
        listed, text = asyncio.run(ask(f"{url}gradio_api/mcp/", tool, arguments))
    ours = {found.name: found for found in listed}
    assert names <= {name.split("_", 1)[1] if name.startswith("ui_") else name for name in ours} | set(ours)
    assert all(found.description for found in listed), "every tool says what it does"
    assert words in text


async def ask(url: str, tool: str, arguments: dict):
    """(tools, text of the answer of one of them)"""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        listed = (await session.list_tools()).tools
        name = next(found.name for found in listed if found.name.endswith(tool))
        answer = await session.call_tool(name, arguments)
        return listed, " ".join(part.text for part in answer.content if part.type == "text")
