"""``posttrain eval``: a model on a suite, or two results compared."""

from pathlib import Path
from typing import Annotated

import typer

from posttrain.errors import JobError


def eval_command(
    suite: Annotated[Path | None, typer.Argument(metavar="SUITE.yaml", help="The suite.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to it: sets.gsm8k.limit=100")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model folder, a run, or a hub id; else the suite's own.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Instead of the suite's: transformers, vllm")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For answers and results; else runs/eval/SUITE/MODEL.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two result folders, in place of a suite.")
    ] = None,
    export_lm_eval: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Only write tasks of lm-eval.")] = None,
) -> None:
    """Answer the prompts of a suite and judge the answers; what was killed goes on with the same command.

    Writes result.json and report.html. --compare tells two models apart prompt by prompt, with a p-value.
    """
    if (suite is None) == (compare is None):
        raise JobError("posttrain eval takes a suite (SUITE.yaml) or two results (--compare A B)")
    if compare is not None:
        from posttrain.evaluation.comparison import compare_results
        from posttrain.report.evaluation import aligned, comparison_rows

        print(aligned(comparison_rows(compare_results(*compare))))
    elif export_lm_eval is not None and suite is not None:
        from posttrain.config_file import load_config
        from posttrain.evaluation.lm_eval_tasks import export_tasks
        from posttrain.evaluation.suite import SuiteConfig

        print(*export_tasks(load_config(SuiteConfig, suite, overrides or []), export_lm_eval), sep="\n")
    else:
        assert suite is not None
        _evaluate(suite, [*(overrides or []), *([f"engine={{type: {engine}}}"] if engine else [])], model, output)


def _evaluate(suite: Path, overrides: list[str], model: str | None, output: Path | None) -> None:
    from posttrain.cli.score import scoring_progress
    from posttrain.config_file import load_config
    from posttrain.evaluation.suite import SuiteConfig, model_folder

    config = load_config(SuiteConfig, suite, overrides)
    own = config.model
    named = model or (own.path if own is not None else None)
    folder = output or Path("runs/eval") / suite.stem / (Path(named).resolve().name if named else "own")
    path = model_folder(named) if named else None

    from posttrain.build import created_once, quiet_libraries
    from posttrain.evaluation.run_suite import run_suite
    from posttrain.report.evaluation import aligned, estimate_rows, write_evaluation

    quiet_libraries()
    if path is None and own is not None and own.tiny is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = str(created_once(folder / "model-start", own.tiny))
    with scoring_progress() as bar:
        tasks = {name: bar.add_task(name, total=None, rows=name) for name in config.sets}
        result, groups = run_suite(
            config, path, folder, lambda name, done, total: bar.update(tasks[name], completed=done, total=total)
        )
    folder.mkdir(parents=True, exist_ok=True)
    page = write_evaluation(result, groups, folder, suite.stem)
    print(aligned(estimate_rows(result)))
    print(page)
