"""Bad input gets one line that names the mend and exit code 2, before any work; nothing is left behind or damaged."""

from pathlib import Path

import pytest

from nightschool.__main__ import main


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("pretrian", "unknown verb 'pretrian'; did you mean pretrain?"),
        ("pretrain --tokns 5", "unknown field --tokns; did you mean --tokens?"),
        ("pretrain --tokens 0", "tokens must be at least 1; got 0"),
        ("pretrain --tokens lots", "Error parsing --tokens"),
        ("pretrain --threads -1", "threads must be at least 0; got -1"),
        ("pretrain --minutes -3", "minutes must be at least 0; got -3"),
        ("pretrain --tokenizer nowhere", "no tokenizer.json in nowhere"),
        ("pretrain nothing.toml", "cannot read nothing.toml"),
        ("tokenizer --vocab-size 10 --out {out}/tok", "vocab_size must be at least 261"),
        ("tokenizer --out {file}", "is a file; choose a folder"),
        ("tokenizer --corpus nowhere.txt --out {out}/tok", "cannot read nowhere.txt: no such file"),
        ("tokenizer --sample-mb 0", "sample_mb must be at least 0.01; got 0.0"),
        ("corpus", "name at least one source"),
        ("corpus {jokes} --tokenizer nowhere", "no tokenizer.json in nowhere"),
        ("corpus {jokes} --dev-share 1", "dev_share must be below 1; got 1.0"),
        ("pretrain --corpus {jokes}", "choose one with --depth"),
        ("pretrain --corpus {jokes} --depth 4 --world-share 1", "world_share must be below 1; got 1.0"),
        ("pretrain --depth -1", "depth must be at least 0; got -1"),
        ("pretrain --corpus nowhere --depth 4 --out {out}/p", "cannot read nowhere: no such file"),
        ("sft --world-share 0.5 --replay 0.5", "world_share + replay must be below 1; got 0.5 + 0.5"),
        ("sft --corpus {jokes} --start nowhere", "no checkpoint in nowhere"),
        ("tokenizer --out {other}", "holds a run of 'sft', not 'tokenizer'"),
        ("sft --start nowhere --out {out}/sft", "no checkpoint in nowhere"),
        ("rl --start nowhere --out {out}/rl", "no checkpoint in nowhere"),
        ("rl --credit luck", "credit must be one of outcome, grpo"),
        ("rl --credit outcom", "did you mean outcome"),
        ("rl --lam 2", "lam must be at most 1; got 2.0"),
        ("rl --credit value --problems 1", "credit value needs problems of at least 2"),
        ("rl --task trase --start {jokes}", "no task 'trase'; did you mean trace?"),
        ("rl --task nowhere.py --start {jokes}", "no file nowhere.py"),
        ("rl --task nowhere.jsonl --start {jokes}", "no file nowhere.jsonl"),
        ("rl --task {torn} --start {jokes}", "every line must be"),
        ("rl --task {lame} --start {jokes}", "must define verify"),
        ("rl --task {wrong} --start {jokes}", "its own gold answer gets"),
        ("rl --judge audited --credit outcome", "a judge judges whole attempts; give --again 0"),
        ("rl --judge audited --again 0 --group-size 2 --audit.learned 96", "more than an update's attempts"),
        ("rl --judge static --again 0 --group-size 2 --audit.first 0", "raise audit.first, or name a judge_start"),
        ("rl --judge-endpoint http://127.0.0.1:9", "a judge_endpoint needs --judge audited or static"),
        ("rl --judge audited --again 0 --group-size 2 --judge-endpoint jury", "must start with http:// or https://"),
        ("rl --judge jury", "invalid choice 'jury'"),
        ("rl --audit.window 0", "window must be at least 1; got 0"),
        ("lab judge --arms attack", "name audited before it"),
        ("lab judge --arms jury", "no such arms: jury"),
        ("lab", "which lab? one of credit"),
        ("lab credits", "which lab? one of credit"),
        ("lab dream --arms nap", "no such arms: nap"),
        ("lab dream --arms dreaming", "dreaming learns from tuned; add tuned to --arms"),
        ("lab dream --results {out}", "run `nightschool lab dream --sweep` first"),
        ("lab credit --arms grop --results {out}", "no such arms: grop"),
        ("lab credit --results {out}", "run `nightschool lab credit --sweep` first"),
        ("lab credit --scale gpu --results {out}", "run `nightschool lab credit --scale gpu --sweep` first"),
        ("rl --group-size 0", "group_size must be at least 1; got 0"),
        ("rl --again 0", "one attempt has none to be compared with; raise group_size or again"),
        ("rl --credit outcome", "credit outcome compares whole attempts; add --again 0 --group-size 8 --problems 8"),
        ("night --start nowhere --out {out}/night", "no checkpoint in nowhere"),
        ("night --review 8", "review needs a reviewer; name a run of `nightschool review`"),
        ("rl --credit review", "credit review needs a reviewer; name a run of `nightschool review`"),
        ("review --start nowhere --out {out}/review", "no checkpoint in nowhere"),
        ("review --teacher peer", "invalid choice 'peer'"),
        ("night --dreams 2", "shares, at most 1; got 0.8 and 2"),
        ("read", "name at least one file or folder"),
        ("read {file} --start nowhere", "no checkpoint in nowhere"),
        ("read {file} --replay 1", "replay must be below 1"),
        ("read {file} --n-asked 1", "n_asked must be at least 4; got 1"),
        ("read {file} --form verse", "invalid choice 'verse'"),
        ("read {file} --reflector localhost", "reflector must start with http:// or https://; got localhost"),
        ("ask ?! --run nowhere", "the question is empty"),
        ("ask why --run nowhere", "no checkpoint in nowhere"),
        ("evaluate nowhere", "no checkpoint in nowhere"),
        ("evaluate nowhere --split exam", "invalid choice 'exam'"),
        ("evaluate nowhere --n -1", "n must be at least 0; got -1"),
        ("evaluate nowhere --exams nowhere.jsonl", "cannot read nowhere.jsonl: no such file"),
        ("evaluate nowhere --exams {jokes}", "jokes.jsonl line 1: a question of multiple choice is"),
        ("evaluate nowhere --texts nowhere.txt", "cannot read nowhere.txt: no such file"),
        ("quickstart --n 0", "n must be at least 1; got 0"),
        ("quickstart --dtype float8", "invalid choice 'float8'"),
        ("doctor --depth 0", "depth must be between 1 and 64; got 0"),
        ("doctor --seconds -1", "seconds must be at least 0; got -1"),
        ("speedrun --depth 99", "depth must be between 1 and 64; got 99"),
        ("speedrun --world-share 0", "has no news to read; name --documents for its night"),
        ("speedrun --per-sentence 0", "per_sentence must be at least 1; got 0"),
        ("speedrun --exams {jokes} --text {file}.txt --chat {jokes} --out {out}/life", "file.txt: no such file"),
        ("speedrun --exams {jokes} --text {jokes} --chat {jokes} --out {out}/life", "a question of multiple choice is"),
        ("speedrun --until lunch", "until must be one of fetch, tokenizer"),
        ("speedrun --text nowhere.jsonl --out {out}/life", "nowhere.jsonl"),
        ("generate", "give either a run or an --endpoint"),
        ("generate nowhere", "give a --prompt, such as"),
        ("generate nowhere --prompt joke", "no checkpoint in nowhere"),
        ("generate --endpoint {jokes} --prompt joke", "endpoint must start with http:// or https://"),
        ("generate nowhere --prompt {{seed}}", "--seeds fill {seed} in a --prompt; give both or neither"),
        ("generate nowhere --prompt joke --seeds {jokes}", "--seeds fill {seed} in a --prompt; give both or neither"),
        ("generate nowhere --prompt joke --n 1", "n must be at least 2; got 1"),
        ("generate nowhere --prompt joke --real {file}", "real must be a .jsonl file"),
        ("generate nowhere --prompt joke --real-share 1", "real_share must lie in (0, 1); got 1.0"),
        ("generate nowhere --prompt joke --surprise", "--surprise needs a run and --verify"),
        ("generate --endpoint http://127.0.0.1:9 --prompt joke --verify nowhere.py", "no file nowhere.py"),
        ("generate --endpoint http://127.0.0.1:9 --prompt joke --verify {lame}", "must define verify(prompt, text) or"),
        ("generate --endpoint http://127.0.0.1:9 --prompt joke --real {jokes}", "jokes.jsonl line 1: a record needs"),
        ("generate --endpoint http://127.0.0.1:9 --prompt {{seed}} --seeds nowhere.txt", "cannot read nowhere.txt"),
        ("audit", "give either a file of samples or an --endpoint"),
        ("audit nowhere.jsonl", "cannot read nowhere.jsonl: No such file or directory"),
        ("audit {file}", "must be a .jsonl or .txt file"),
        ("audit {other}/config.json", "must be a .jsonl or .txt file"),
        ("audit {jokes} --ref nowhere.txt", "cannot read nowhere.txt"),
        ("audit {jokes} --ref {jokes}", "must hold at least 4 samples; it holds 2"),
        ("audit {torn}", "torn.jsonl line 2 as JSON"),
        ("audit {jokes} --ref {torn}", "torn.jsonl line 2 as JSON"),
        ("audit {jokes} --fail-below 0.5", "give one with --ref"),
        ("audit {jokes} --ref {jokes} --fail-below -1", "fail_below must be at least 0"),
        ("audit {jokes} --endpoint http://127.0.0.1:9", "give either a file of samples or an --endpoint"),
        ("audit --endpoint http://127.0.0.1:9", "needs a --prompt"),
        ("audit --endpoint {jokes} --prompt joke", "must start with http:// or https://"),
        ("audit --endpoint http://127.0.0.1:9 --prompt joke --n 1", "n must be at least 2; got 1"),
        ("audit {jokes} --checkpoint {other}", "--checkpoint, --before and --ref go together"),
        ("audit {jokes} --ref {jokes} --checkpoint a --before b", "no checkpoint in a"),
        ("audit {jokes} --embed {other}", "--embed learns from a reference what is usual; give one with --ref"),
        ("audit {jokes} --out {file}", "is a file; choose a folder"),
        ("audit {jokes} --out {other}", "holds a run of 'sft', not 'audit'"),
        ("lab collapse --arms naif", "no such arms: naif; known: real_only, naive"),
        ("lab collapse --arms peers", "peers needs its peer; add peers_other to --arms"),
        (
            "lab collapse --out {out} --results {out}",
            "collapse_sweep.json; run `nightschool lab collapse --sweep` first",
        ),
        ("lab reading --arms raed", "no such arms: raed; known: read, links"),
        ("lab reading --arms peer", "give the run of another life with --peer"),
        ("lab reading --arms text_read", "give --text.start, .school and .read"),
        ("lab reading --start nowhere --results {out}", "no checkpoint in nowhere"),
        ("report nowhere", "nowhere"),
        ("chat nowhere", "nowhere"),
        ("serve nowhere", "nowhere"),
        ("serve nowhere --port 99999", "port"),
        ("import nowhere", "no folder nowhere; give one, or a model's name on the hub"),
        ("import {other} --out {out}/run", "is not a Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM but None"),
        ("import {out}", "no config.json in"),
        ("export nowhere --to hf --out {out}/e", "no checkpoint in nowhere"),
        ("export nowhere --to onnx --out {out}/e", "invalid choice 'onnx'"),
        ("export nowhere --to hf --quant q8_0 --out {out}/e", "quant 'q8_0' is for --to gguf"),
        ("sft --lora-rank -1", "lora_rank must be at least 0; got -1"),
        ("rl --lora-rank -1", "lora_rank must be at least 0; got -1"),
        ("read {file} --lora-rank -1", "lora_rank must be at least 0; got -1"),
        ("night --lora-rank -1", "lora_rank must be at least 0; got -1"),
        ("doctor --start nowhere", "no checkpoint in nowhere"),
    ],
)
def test_one_line_and_exit_code_2(argv: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other, out = tmp_path / "file", tmp_path / "other", tmp_path / "out"
    file.write_text("mine")
    jokes, torn = tmp_path / "jokes.jsonl", tmp_path / "torn.jsonl"
    jokes.write_text('"one"\n"two"\n')
    torn.write_text('"one"\n{"text": "tw')
    lame, wrong = tmp_path / "lame.py", tmp_path / "wrong.py"
    lame.write_text("def sample(rng, split): ...")
    wrong.write_text(
        "from nightschool.world.problem import Problem\n"
        "from nightschool.tasks.task import Verdict\n"
        "def sample(rng, split): return Problem('own', '', 'k', '1+1', '2')\n"
        "def verify(problem, transcript): return Verdict(0.0)\n"
    )
    other.mkdir()
    (other / "config.json").write_text('{"verb": "sft", "config": {}, "settled": {}}')
    out.mkdir()
    before = sorted(p for p in tmp_path.rglob("*") if p.name not in (".lock",))
    assert (
        main(argv.format(file=file, other=other, out=out, jokes=jokes, torn=torn, lame=lame, wrong=wrong).split()) == 2
    )
    said = capsys.readouterr()
    assert said.out == ""
    (only,) = said.err.splitlines()
    assert only.startswith("nightschool: ")
    assert line in only
    assert file.read_text() == "mine"
    if "vocab" not in argv:
        assert sorted(p for p in tmp_path.rglob("*") if p.name not in (".lock",)) == before
