"""The bundled model through the whole service: a real answer arrives piece by piece and is kept."""
import time

from tests.contract import delivery_of
from tests.service import Service


def test_an_answer_of_sixty_tokens_arrives_piece_by_piece_and_is_kept(real_model_service: Service) -> None:
    client = real_model_service.client
    stream = client.stream_text("Write a short story about a lighthouse keeper and a gull.", max_tokens=60, temperature=0)
    first = stream.more()
    assert client.history(stream.completion_id)["status"] == "in_progress", "read before the model had finished"
    began, times = time.monotonic(), []
    while stream.more():
        times.append(time.monotonic() - began)
    text = stream.text()
    assert first and text.startswith(first.decode())
    assert len(stream.pieces) >= 10
    row = client.history(stream.completion_id)
    assert row["response"] == text
    assert (row["status"], row["finish_reason"], row["output_tokens"]) == ("completed", "length", 60)
    assert row["input_tokens"] > 10
    assert row["request_model"] == "SmolLM2-135M-Instruct" and row["response_model"]
    assert delivery_of(client, stream.completion_id) == ("complete", len(text.encode()))
    print(f"{len(stream.pieces)} reads, first text after {row['time_to_first_token_ms']} ms, all after {row['duration_ms']} ms")


def test_it_remembers_the_conversation(real_model_service: Service) -> None:
    client = real_model_service.client
    first = client.stream_text("What is the capital of France?", max_tokens=20, temperature=0)
    first.text()
    second = client.stream_text("And of Italy?", conversation_id=first.conversation_id, max_tokens=20, temperature=0)
    second.text()
    tokens = [client.history(stream.completion_id)["input_tokens"] for stream in (first, second)]
    assert tokens[1] > tokens[0]


def test_a_stopped_answer_frees_the_model(real_model_service: Service) -> None:
    client = real_model_service.client
    stream = client.stream_events("Write a long story about a lighthouse keeper.", temperature=0)
    stream.until("delta")
    assert client.stop(stream.completion_id).json()["status"] == "cancelled"
    assert stream.end().name == "cancelled"
    assert client.stream_text("Say hello.", max_tokens=5).text()


def test_a_prompt_beyond_the_context_is_refused_in_words(real_model_service: Service) -> None:
    response = real_model_service.client.ask("word " * 20_000, max_tokens=5)
    assert response.status_code == 422
    assert response.json()["error_type"] == "context_length_exceeded"
