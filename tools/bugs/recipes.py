"""Bugs in recipes and their stages."""

from bugs.mutant import Mutant

STAGES = ("tests/recipes/test_stages.py",)
RECIPES = ("tests/recipes/test_recipes.py::test_one_file_for_agents_and_language_models",)

RECIPE_BUGS = [
    Mutant(
        "installed-stages-unnamed",
        "config/plugins.py",
        "dict.fromkeys([*self.built_in, *plugins(self.group)])",
        "dict.fromkeys(self.built_in)",
        STAGES,
        "the table of a stage that another package brings is an unknown key",
    ),
    Mutant(
        "stages-imported-for-help",
        "cli/app.py",
        """f"The recipe's {name} table, a stage of {package_of(point)}.\"""",
        """help_of(name) + package_of(point)""",
        STAGES,
        "`kedge --help` imports whatever other packages bring",
    ),
    Mutant(
        "control-unchecked",
        "recipes/recipe.py",
        "if missing := stage_called(table).missing():",
        'if missing := stage_called(table).missing() or ("x" if table == "control" != stage else ""):',
        RECIPES,
        "a file that `kedge control` refuses is accepted by the others",
    ),
    Mutant(
        "stage-resumed-as-if-anew",
        "cli/stages.py",
        "job = stage.job(recipe, overwrite=overwrite, resume=resume)",
        "job = stage.job(recipe, overwrite=overwrite or resume, resume=False)",
        STAGES,
        "--resume of a stage begins anew",
    ),
    Mutant(
        "every-stage-planned",
        "recipes/fitting.py",
        "if stage in recipe.stages and stage_called(stage).trains]",
        "if stage in recipe.stages]",
        STAGES,
        "a stage that trains nothing is planned",
    ),
    Mutant(
        "agents-beside-policies",
        "recipes/stages/control.py",
        """or f"runs/{name}\"""",
        """or f"runs/{name}-control\"""",
        RECIPES,
        "an agent's run is looked for where it never was",
    ),
]
