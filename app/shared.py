"""What several pages share: the library, the study that is looked at, states that show nothing."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from autoquant.browse.library import Library, StudyCard, StudyView
from autoquant.browse.setting import AppSetting
from autoquant.core.trial import Trial
from autoquant.errors import AutoquantError

STATES = {
    "starting": ("hourglass_top", "blue"),
    "reading": ("hourglass_top", "blue"),
    "running": ("play_circle", "green"),
    "done": ("check_circle", "gray"),
    "stopped": ("pause_circle", "orange"),
    "not begun": ("error", "red"),
    "unreadable": ("broken_image", "red"),
}
EVERY_TARGET = "every target"
_LONGEST_NUMBER = 9  # digits of a trial's


@st.cache_resource
def _library_of(results: str, storage: str | None) -> Library:
    return Library(Path(results), storage)


def setting() -> AppSetting:
    """What the app was started with."""
    return AppSetting.from_environment()


def library() -> Library:
    """The studies, shared by everyone who has the app open."""
    told = setting()
    return _library_of(str(told.results), told.storage)


def plain(text: str) -> str:
    """Text of a record as text: nothing in it is markup, a formula or an icon."""
    return "".join(
        f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!$:|~^" else letter for letter in text
    )


def badge(state: str) -> str:
    """A state as an icon with its word."""
    icon, color = STATES[state]
    return f":{color}[:material/{icon}: {state}]"


def choose_card() -> StudyCard:
    """The study that is looked at, from the address or the sidebar; stops where there is none."""
    shelf = library()
    names = shelf.names()
    if shelf.problem or not names:
        explain_nothing(shelf)
    asked = st.query_params.get("study") or st.session_state.get("last_study")
    if "study" not in st.session_state or st.session_state.study not in names:
        st.session_state.study = asked if asked in names else names[0]
    if st.query_params.get("study") not in (None, *names):
        st.warning(
            f"There is no study {plain(st.query_params['study'][:80])} here: "
            "choose one at the left.", icon=":material/search_off:",
        )  # fmt: skip
        warn_of_database(shelf)
    name = st.sidebar.selectbox("Study", names, key="study", on_change=_forget_trials)
    st.session_state.last_study = name
    st.query_params["study"] = name
    return shelf.card(name)


def _forget_trials() -> None:
    st.query_params.pop("trial", None)
    st.query_params.pop("layer", None)
    st.session_state.pop("trials", None)


def choose_view(*, is_of_one_target: bool = True) -> StudyView:
    """The same, where there is something to show; says why and stops where there is not.

    Args:
        is_of_one_target: a study of several may be looked at as one of them sees it.
    """
    card = choose_card()
    if card.problem and card.view is not None:
        st.warning(plain(card.problem), icon=":material/warning:")
    if card.view is None:
        explain_card(card)
    if not card.view.snapshot.trials:
        st.info(
            "No trial is finished yet. The page Live shows what goes on.",
            icon=":material/hourglass_top:",
        )
        st.page_link("views/live.py", label="Watch it", icon=":material/monitoring:")
        st.stop()
    return choose_target(card.view) if is_of_one_target else card.view


def choose_target(view: StudyView) -> StudyView:
    """The study as the target sees it that is chosen at the left, if it has some."""
    if not view.by_target:
        return view
    names = [EVERY_TARGET, *view.by_target]
    last = st.session_state.get("last_target")
    name = st.sidebar.selectbox(
        "Latency on", names, names.index(last) if last in names else 0, key=f"target_{view.key}"
    )
    st.session_state.last_target = name
    if name != EVERY_TARGET:
        return view.by_target[name]
    first = plain(next(iter(view.by_target)))
    st.sidebar.caption(
        f"The front is by the latency on every target; what is shown of it is on {first}."
    )
    return view


def explain_nothing(shelf: Library) -> None:
    """No study at all: what to do."""
    if shelf.problem:
        st.error(plain(shelf.problem), icon=":material/folder_off:")
        st.stop()
    warn_of_database(shelf)
    st.info(
        "There are no studies here yet. Begin one: the digits need no data and a minute or two.",
        icon=":material/science:",
    )
    st.page_link("views/new.py", label="New search", icon=":material/add:")
    also = "" if shelf.database is None else f" and in {shelf.database.shown}"
    st.caption(f"Studies are looked for in {plain(str(shelf.results.absolute()) + also)}")
    st.stop()


def warn_of_database(shelf: Library) -> None:
    """What is wrong with the database, if something is; studies of the folder can be used."""
    if shelf.database_problem:
        st.warning(plain(shelf.database_problem), icon=":material/cloud_off:")


def explain_card(card: StudyCard) -> None:
    """A study of which nothing can be shown: why, and what to do."""
    if card.state == "starting":
        st.info("The search is starting: it loads its task first.", icon=":material/hourglass_top:")
        st.page_link("views/live.py", label="Watch it", icon=":material/monitoring:")
    elif card.state == "reading":
        st.info(plain(card.problem or ""), icon=":material/hourglass_top:")
        wait_for(card.name)
    else:
        st.error(plain(card.problem or "nothing can be shown of it"), icon=":material/error:")
    st.stop()


@st.fragment(run_every=1)
def wait_for(key: str) -> None:
    """Look again, until a study has been read."""
    if library().card(key).state != "reading":
        st.rerun()


def chosen_trials() -> list[int]:
    """Numbers of the trials that were chosen, from this visit or from the address."""
    if "trials" not in st.session_state:
        texts = st.query_params.get_all("trial")
        numbers = [int(t) for t in texts if t.isdecimal() and len(t) <= _LONGEST_NUMBER]
        st.session_state.trials = numbers[:4]
    return list(st.session_state.trials)


def choose_trials(numbers: Sequence[int]) -> None:
    """Remember trials, in the address too."""
    st.session_state.trials = list(numbers)
    st.query_params["trial"] = [str(number) for number in numbers]


def pick_trials(view: StudyView, label: str, most: int) -> list[Trial]:
    """Trials chosen from a list, members of the front first; begins with those chosen before."""
    advised = [advice.trial.number for advice in view.advice]
    members = [trial.number for trial in view.front.members]
    others = [n for n, trial in view.by_number.items() if trial.state == "complete"]
    offered = list(dict.fromkeys([*advised, *members, *others]))
    begin = [n for n in chosen_trials() if n in offered] or offered[: max(1, most // 2)]
    names = {n: name_trial(view.by_number[n], n in members) for n in offered}
    if most == 1:
        index = offered.index(begin[0]) if begin else 0
        number = st.selectbox(label, offered, index, names.get, key=f"pick_{view.key}")
        chosen = [] if number is None else [number]
    else:
        chosen = st.multiselect(
            label, offered, begin[:most], names.get, max_selections=most,
            key=f"picks_{view.key}",
        )  # fmt: skip
    if chosen:
        choose_trials(chosen)
    return [view.by_number[number] for number in chosen]


def name_trial(trial: Trial, is_member: bool) -> str:
    """A trial in a list."""
    from autoquant.report import describe_recipe

    star = " ★" if is_member else ""
    return f"{trial.number}{star}  {describe_recipe(trial.recipe, trial.name)}"


def attempt(action, *arguments, **options) -> bool:
    """Do something that may be refused, and say why if it is."""
    try:
        action(*arguments, **options)
    except (AutoquantError, OSError) as error:
        st.error(plain(str(error)), icon=":material/error:")
        return False
    return True
