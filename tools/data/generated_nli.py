"""Makes sentence pairs for natural-language inference and semantic similarity in English, Spanish and German.

A small grammar says scenes: who (with an attribute) does what, where and when. A premise entails what leaves something
out or names it more broadly, and is contradicted by what is otherwise in one respect. The similarity of two scenes is 5
less what each slot costs: little where one side leaves it out, more where they contradict each other. The same scenes are
said in every language, each time in other words or another order. Whoever and whatever stand together in a test sentence
never do in training. Everything follows from the seed.

    python3 tools/data/generated_nli.py [FOLDER]     default: runs/data/nli

    <l>.nli.jsonl                         query (premise), positive (entailed), negatives (contradicting), for training
    <l>.sts.train.jsonl, .sts.test.jsonl  text, pair, score
    <a>-<b>.sts.test.jsonl                the test pairs with their second side in the other language
"""

import argparse
import hashlib
import itertools
import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

LANGUAGES = ("en", "es", "de")
TEST_EVERY = 5

# Name, group of the like, gender in Spanish; noun and article in each language. Nouns of one line mean the same.
AGENTS = {
    "woman": ("adult", "f", "woman|lady", "la mujer|la señora", "die Frau|die Dame"),
    "man": ("adult", "m", "man|gentleman", "el hombre|el señor", "der Mann|der Herr"),
    "girl": ("child", "f", "girl", "la niña|la chica", "das Mädchen"),
    "boy": ("child", "m", "boy", "el niño|el chico", "der Junge|der Bub"),
    "teacher": ("school", "m", "teacher", "el maestro|el profesor", "der Lehrer"),
    "pupil": ("school", "f", "pupil|student", "la alumna|la estudiante", "die Schülerin"),
    "doctor": ("hospital", "f", "doctor|physician", "la médica|la doctora", "die Ärztin"),
    "nurse": ("hospital", "m", "nurse", "el enfermero", "der Pfleger|der Krankenpfleger"),
    "farmer": ("land", "m", "farmer", "el campesino|el agricultor", "der Bauer|der Landwirt"),
    "gardener": ("land", "f", "gardener", "la jardinera", "die Gärtnerin"),
    "singer": ("stage", "f", "singer", "la cantante", "die Sängerin"),
    "actor": ("stage", "m", "actor", "el actor", "der Schauspieler"),
    "soldier": ("uniform", "m", "soldier", "el soldado", "der Soldat"),
    "policewoman": ("uniform", "f", "policewoman", "la policía|la agente", "die Polizistin"),
    "grandmother": ("family", "f", "grandmother|grandma", "la abuela", "die Großmutter|die Oma"),
    "uncle": ("family", "m", "uncle", "el tío", "der Onkel"),
}
SOMEONE = ("someone|somebody|a person", "alguien|una persona", "jemand|eine Person")

# Attribute, its opposite; English, Spanish masculine/feminine, German after an article.
ATTRIBUTES = {
    "old": ("young", "old|elderly", "viejo/vieja|anciano/anciana", "alte"),
    "young": ("old", "young", "joven/joven", "junge"),
    "tall": ("short", "tall", "alto/alta", "große"),
    "short": ("tall", "short|small", "bajo/baja", "kleine"),
    "happy": ("sad", "happy|cheerful", "feliz/feliz|contento/contenta", "fröhliche|glückliche"),
    "sad": ("happy", "sad|unhappy", "triste/triste", "traurige"),
    "rich": ("poor", "rich|wealthy", "rico/rica", "reiche|wohlhabende"),
    "poor": ("rich", "poor", "pobre/pobre", "arme"),
}

# Kind of activity, said broadly; then its activities. German as verb and what stands at the end.
ACTIVITIES = {
    "read": (
        ("reading something", "lee algo", "liest_etwas"),
        ("reading a book|reading a novel", "lee un libro|lee una novela", "liest_ein Buch|liest_einen Roman"),
        ("reading the newspaper|reading the paper", "lee el periódico|lee el diario", "liest_die Zeitung"),
        ("reading a letter", "lee una carta", "liest_einen Brief"),
    ),
    "eat": (
        ("eating something", "come algo", "isst_etwas"),
        ("eating an apple", "come una manzana", "isst_einen Apfel"),
        ("eating soup", "come sopa|toma sopa", "isst_Suppe|löffelt_eine Suppe"),
        ("eating bread and cheese", "come pan con queso", "isst_Brot mit Käse"),
    ),
    "drink": (
        ("drinking something", "bebe algo", "trinkt_etwas"),
        ("drinking coffee|having a coffee", "bebe café|toma un café", "trinkt_Kaffee|trinkt_einen Kaffee"),
        ("drinking a glass of water", "bebe un vaso de agua", "trinkt_ein Glas Wasser"),
        ("drinking wine", "bebe vino", "trinkt_Wein"),
    ),
    "music": (
        ("making music", "hace música", "macht_Musik"),
        ("playing the piano", "toca el piano", "spielt_Klavier"),
        ("playing the guitar", "toca la guitarra", "spielt_Gitarre"),
        ("singing a song|singing", "canta una canción|canta", "singt_ein Lied|singt_"),
    ),
    "sport": (
        ("doing sport|exercising", "hace deporte", "treibt_Sport"),
        ("playing football|playing soccer", "juega al fútbol", "spielt_Fußball"),
        ("swimming", "nada", "schwimmt_"),
        ("riding a bicycle|cycling", "monta en bicicleta", "fährt_Rad|fährt_Fahrrad"),
    ),
    "clean": (
        ("cleaning up|tidying up", "limpia", "macht_sauber"),
        ("washing the dishes", "lava los platos|friega los platos", "spült_das Geschirr|wäscht_das Geschirr ab"),
        ("sweeping the floor", "barre el suelo", "kehrt_den Boden|fegt_den Boden"),
        ("washing the windows|cleaning the windows", "limpia las ventanas", "putzt_die Fenster"),
    ),
    "create": (
        ("making something", "hace algo", "stellt_etwas her"),
        ("painting a picture", "pinta un cuadro", "malt_ein Bild"),
        ("sewing a dress", "cose un vestido", "näht_ein Kleid"),
        ("building a chair", "construye una silla", "baut_einen Stuhl"),
    ),
    "talk": (
        ("talking|speaking", "habla", "redet_|spricht_"),
        ("talking on the phone|making a phone call", "habla por teléfono", "telefoniert_"),
        ("telling a story", "cuenta una historia", "erzählt_eine Geschichte"),
        ("asking a question", "hace una pregunta", "stellt_eine Frage"),
    ),
    "animals": (
        ("looking after an animal", "cuida un animal", "kümmert_sich um ein Tier"),
        ("feeding the horse", "da de comer al caballo", "füttert_das Pferd"),
        ("brushing the dog", "cepilla al perro", "bürstet_den Hund"),
        ("stroking the cat|petting the cat", "acaricia al gato", "streichelt_die Katze"),
    ),
    "trade": (
        ("doing business", "hace negocios", "macht_Geschäfte"),
        ("selling flowers", "vende flores", "verkauft_Blumen"),
        ("buying a coat", "compra un abrigo", "kauft_einen Mantel"),
        ("counting the money|counting money", "cuenta el dinero", "zählt_das Geld"),
    ),
}

# Place, group of the like.
PLACES = {
    "kitchen": ("home", "in the kitchen", "en la cocina", "in der Küche"),
    "living room": ("home", "in the living room", "en el salón", "im Wohnzimmer"),
    "garden": ("green", "in the garden", "en el jardín", "im Garten"),
    "park": ("green", "in the park", "en el parque", "im Park"),
    "beach": ("water", "on the beach", "en la playa", "am Strand"),
    "river": ("water", "by the river", "junto al río|a la orilla del río", "am Fluss"),
    "station": ("town", "at the station|at the train station", "en la estación", "am Bahnhof"),
    "market": ("town", "at the market", "en el mercado", "auf dem Markt"),
    "school": ("house", "at school|in the school", "en la escuela", "in der Schule"),
    "church": ("house", "in the church", "en la iglesia", "in der Kirche"),
    "mountains": ("land", "in the mountains", "en las montañas|en la sierra", "in den Bergen"),
    "village": ("land", "in the village", "en el pueblo|en la aldea", "im Dorf"),
}

TIMES = {
    "morning": ("day", "in the morning", "por la mañana", "am Morgen|morgens"),
    "noon": ("day", "at noon|at midday", "a mediodía", "am Mittag|mittags"),
    "evening": ("dark", "in the evening", "por la tarde", "am Abend|abends"),
    "night": ("dark", "at night|during the night", "por la noche|de noche", "in der Nacht|nachts"),
    "Sunday": ("week", "on Sunday", "el domingo", "am Sonntag"),
    "Monday": ("week", "on Monday", "el lunes", "am Montag"),
    "summer": ("year", "in summer|in the summer", "en verano", "im Sommer"),
    "winter": ("year", "in winter|in the winter", "en invierno", "im Winter"),
}

DEEDS = {
    (kind, number): said
    for kind, (_, *deeds) in ACTIVITIES.items()
    for number, said in enumerate(deeds)
}

SLOTS = {"agent": AGENTS, "deed": DEEDS, "attribute": ATTRIBUTES, "place": PLACES, "time": TIMES}

# What it costs the similarity that two sentences contradict each other in a slot; half, where they are merely alike.
COSTS = {"agent": 1.75, "deed": 2.0, "attribute": 1.25, "place": 1.25, "time": 1.0}
OMITTED = 0.25  # That one of them does not say it.


@dataclass(frozen=True)
class Scene:
    """None: not said. For agent and deed: said broadly ("someone", and the kind of deed without a number)."""

    agent: str | None
    deed: tuple[str, int | None]
    attribute: str | None = None
    place: str | None = None
    time: str | None = None


def is_test(agent, deed):
    digest = hashlib.sha256(f"{agent} {deed[0]} {deed[1]}".encode()).digest()
    return digest[0] % TEST_EVERY == 0


def say(scene, language, rng):
    """One of the ways to say a scene."""
    column = LANGUAGES.index(language)

    def one_of(said):
        return rng.choice(said.split("|"))

    if scene.agent is None:
        who = one_of(SOMEONE[column])
    else:
        who = one_of(AGENTS[scene.agent][2 + column])
        if scene.attribute:
            attribute = one_of(ATTRIBUTES[scene.attribute][1 + column])
            if language == "es":
                who += " " + attribute.split("/")[AGENTS[scene.agent][1] == "f"]
            elif language == "de":
                article, noun = who.split(" ", 1)
                who = f"{article} {attribute} {noun}"
            else:
                who = f"{attribute} {who}"
        if language == "en":
            who = "the " + who
    kind, number = scene.deed
    doing = one_of(ACTIVITIES[kind][0][column] if number is None else DEEDS[scene.deed][column])
    where = one_of(PLACES[scene.place][1 + column]) if scene.place else ""
    when = one_of(TIMES[scene.time][1 + column]) if scene.time else ""
    time_first = bool(when) and rng.random() < 0.4
    if language == "de":
        verb, rest = doing.split("_")
        words = [when, verb, who, where, rest] if time_first else [who, verb, when, where, rest]
    else:
        verb = "is " + doing if language == "en" else doing
        words = [when + ",", who, verb, where] if time_first else [who, verb, where, when]
    sentence = " ".join(word for word in words if word)
    return sentence[0].upper() + sentence[1:] + "."


def draw_scene(rng, test):
    while True:
        scene = Scene(
            *(rng.choice(list(SLOTS[slot])) for slot in ("agent", "deed")),
            *(rng.choice([None, *SLOTS[slot]]) for slot in ("attribute", "place", "time")),
        )
        if is_test(scene.agent, scene.deed) == test:
            return scene


def entailed(scene, rng):
    """The scene with something left out or said broadly, or the same in other words."""
    changes = {slot: None for slot in ("attribute", "place", "time") if getattr(scene, slot) and rng.random() < 0.5}
    if rng.random() < 0.25:
        changes.update(agent=None, attribute=None)
    if rng.random() < 0.25:
        changes["deed"] = (scene.deed[0], None)
    return replace(scene, **changes)


def alike(slot, x, y):
    """Whether two values that differ are of one group; attributes are, unless they are opposites."""
    if slot == "attribute":
        return ATTRIBUTES[x][0] != y
    if slot == "deed":
        return x[0] == y[0]
    return SLOTS[slot][x][0] == SLOTS[slot][y][0]


def other_value(slot, value, rng, like):
    """A value that contradicts `value`, or is only alike; None where there is none."""
    fitting = [other for other in SLOTS[slot] if other != value and alike(slot, value, other) == like]
    return rng.choice(fitting) if fitting else None


def contradicting(scene, rng):
    """The same, but otherwise in one slot that it says."""
    while True:
        slot = rng.choice([slot for slot in COSTS if getattr(scene, slot)])
        changed = replace(scene, **{slot: other_value(slot, getattr(scene, slot), rng, False)})
        if not is_test(changed.agent, changed.deed):
            return changed


def similarity(a, b):
    """0 to 5."""
    cost = 0.0
    for slot, most in COSTS.items():
        x, y = getattr(a, slot), getattr(b, slot)
        if x == y:
            continue
        if x is None or y is None:
            cost += OMITTED
        else:
            cost += most / 2 if alike(slot, x, y) else most
    return max(0.0, round(5 - cost, 3))


def draw_similar(scene, rng, test):
    """A scene that differs from another in some slots: left out, alike or contradicting."""
    while True:
        share = rng.choice([0.1, 0.4, 0.7, 1.0])
        changed = scene
        for slot in COSTS:
            value = getattr(scene, slot)
            if value is None or rng.random() > share:
                continue
            way = rng.choice(["omit", "alike", "contradict"])
            if way != "omit":
                other = other_value(slot, value, rng, way == "alike")
                changed = replace(changed, **{slot: other or value})
            elif slot not in ("agent", "deed"):
                changed = replace(changed, **{slot: None})
        if is_test(changed.agent, changed.deed) == test:
            return changed


def distinct(say_one, other):
    """Says until it is another text; None where there is no other way to say it."""
    for _ in range(20):
        text = say_one()
        if text != other:
            return text
    return None


def nli_rows(count, rng):
    """Rows of every language, of the same scenes."""
    rows = {language: [] for language in LANGUAGES}
    while len(rows["en"]) < count:
        scene = draw_scene(rng, False)
        consequence, contradiction = entailed(scene, rng), contradicting(scene, rng)
        said = {}
        for language in LANGUAGES:
            premise = say(scene, language, rng)
            positive = distinct(lambda: say(consequence, language, rng), premise)
            said[language] = {"query": premise, "positive": positive, "negatives": [say(contradiction, language, rng)]}
        if all(row["positive"] for row in said.values()):
            for language in LANGUAGES:
                rows[language].append(said[language])
    return rows


def sts_rows(count, rng, test):
    rows = {language: [] for language in LANGUAGES}
    while len(rows["en"]) < count:
        scene = draw_scene(rng, test)
        other = draw_similar(scene, rng, test)
        said = {}
        for language in LANGUAGES:
            text = say(scene, language, rng)
            pair = distinct(lambda: say(other, language, rng), text)
            said[language] = {"text": text, "pair": pair, "score": similarity(scene, other)}
        if all(row["pair"] for row in said.values()):
            for language in LANGUAGES:
                rows[language].append(said[language])
    return rows


def generate(seed, nli, sts_train, sts_test):
    """File names and their rows."""
    files = {f"{language}.nli": rows for language, rows in nli_rows(nli, random.Random(f"{seed} nli")).items()}
    for part, count in (("train", sts_train), ("test", sts_test)):
        said = sts_rows(count, random.Random(f"{seed} sts {part}"), part == "test")
        files.update({f"{language}.sts.{part}": rows for language, rows in said.items()})
    for a, b in itertools.combinations(LANGUAGES, 2):
        files[f"{a}-{b}.sts.test"] = [
            {**x, "pair": y["pair"]} for x, y in zip(files[f"{a}.sts.test"], files[f"{b}.sts.test"])
        ]
    return files


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parents[2] / "runs" / "data" / "nli")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nli", type=int, default=4000, help="triplets a language")
    parser.add_argument("--sts-train", type=int, default=2000, help="pairs a language")
    parser.add_argument("--sts-test", type=int, default=500)
    options = parser.parse_args(arguments)
    if options.out.exists():
        print(f"generated_nli.py: {options.out} is there")
        return
    # Written aside and renamed, so that an interruption leaves nothing half there.
    partial = options.out.with_name(options.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, rows in generate(options.seed, options.nli, options.sts_train, options.sts_test).items():
        with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{name}: {len(rows)} rows")
    partial.rename(options.out)


if __name__ == "__main__":
    main()
