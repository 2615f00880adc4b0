"""Every word list of the world, and helpers of English spelling.

The whole world keeps to some 1,500 distinct words, so that a vocabulary of 2,048 tokens holds each name and
noun as one token. No name is the beginning of another, or a noun; none ends in s, so every possessive is 's.
The worlds of train, dev and test share these lists and nothing else. All of it was written for this project.
"""

from __future__ import annotations

# fmt: off
WOMEN = (
    "Ada", "Bella", "Cecily", "Dora", "Edith", "Fiona", "Greta", "Hanna", "Ida", "Julia", "Karen", "Lena",
    "Mira", "Nora", "Olga", "Pia", "Ruth", "Sara", "Tina", "Ursula", "Vera", "Wanda", "Yara", "Zoe",
)
MEN = (
    "Anton", "Ben", "Carl", "David", "Emil", "Felix", "George", "Henry", "Ivan", "Jacob", "Karl", "Leo",
    "Martin", "Noah", "Oscar", "Paul", "Robert", "Simon", "Tom", "Ugo", "Victor", "Walter", "Xavier", "Yann",
)
FIRST_NAMES = WOMEN + MEN
NEW_WOMEN = (  # never heard in town by day: the family that moves in at night
    "Amina", "Bianca", "Carmen", "Daphne", "Elena", "Fatima", "Gina", "Halima", "Imani", "Jasmin",
)
NEW_MEN = (
    "Ahmed", "Bilal", "Cyril", "Diego", "Enzo", "Farid", "Goran", "Hassan", "Ibrahim", "Jorge",
)
NEW_NAMES = NEW_WOMEN + NEW_MEN
SURNAMES = (
    "Abbott", "Alden", "Barlow", "Bromley", "Calder", "Dalton", "Denby", "Elwood", "Emery", "Farrow",
    "Fenwick", "Garland", "Gibson", "Hadley", "Harlow", "Ingram", "Jensen", "Kendall", "Kirby", "Larkin",
    "Lowell", "Marlow", "Mercer", "Norton", "Oakley", "Palmer", "Pickett", "Quigley", "Ramsey", "Rowland",
    "Selby", "Stanton", "Thorne", "Tilden", "Upton", "Vance", "Walden", "Whitby", "Yardley", "Zimmer",
)
NEW_SURNAMES = ("Amaro", "Brandt", "Castell", "Duval", "Kovac", "Moreau")
PET_NAMES = ("Rex", "Bingo", "Fifi", "Mitzi", "Pogo", "Zuzu", "Tiki", "Momo", "Bobo", "Kiki", "Lulu", "Nero")
TOWNS = (
    "Alderby", "Brookham", "Crestow", "Dunmere", "Elmford", "Fallow Hill", "Greenwell", "Hollin",
    "Kestrel Bay", "Lindale", "Millbrook", "Northam",
)

WORKPLACE = {  # job -> where it is done, one of PLACES
    "baker": "bakery", "miller": "mill", "teacher": "school", "doctor": "clinic", "nurse": "clinic",
    "farmer": "farm", "fisher": "harbour", "tailor": "workshop", "painter": "studio", "actor": "theatre",
    "singer": "theatre", "driver": "station", "gardener": "garden", "carpenter": "workshop", "cook": "inn",
    "clerk": "office", "judge": "court", "banker": "bank", "barber": "square", "potter": "pottery",
    "weaver": "workshop", "smith": "forge", "sailor": "harbour", "porter": "hotel", "librarian": "library",
    "dentist": "clinic", "butcher": "market", "grocer": "market", "printer": "office", "priest": "church",
}
JOBS = tuple(WORKPLACE)
PLACES = (
    "mill", "bakery", "school", "clinic", "farm", "harbour", "church", "library", "bank", "market", "garden",
    "station", "museum", "theatre", "inn", "forge", "tower", "bridge", "park", "square", "court", "dairy",
    "pottery", "stable", "orchard", "studio", "hotel", "castle", "workshop", "office",
)
ROOMS = ("kitchen", "cellar", "attic", "hall", "bedroom", "bathroom", "shed", "yard")
STREETS = (
    "Oak Street", "Mill Lane", "River Road", "Church Street", "Bridge Street", "Elm Road", "Garden Lane",
    "Hill Road", "Market Street", "Station Road", "Lake Lane", "Cherry Lane",
)
OBJECTS = (
    "lamp", "kettle", "bell", "book", "clock", "cup", "hat", "key", "knife", "ladder", "mirror", "needle",
    "pen", "pencil", "plate", "pot", "ring", "rope", "saw", "scarf", "shovel", "spoon", "stamp", "sword",
)
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "grey", "orange", "purple")
GOODS = (  # countable, in the plural; singular() gives one of them
    "apples", "pears", "plums", "cherries", "lemons", "onions", "carrots", "potatoes", "cabbages", "tomatoes",
    "eggs", "rolls", "buns", "cakes", "pies", "cookies", "nuts", "peaches", "melons", "beans", "candles",
    "nails", "buttons", "ribbons", "marbles", "stickers", "cards", "tiles", "seeds", "bricks",
)
FOODS = GOODS[:20]
ANIMALS = (
    "dog", "cat", "goat", "horse", "cow", "pig", "duck", "hen", "goose", "rabbit", "parrot", "donkey",
)
HOBBIES = (
    "reading", "painting", "fishing", "dancing", "cooking", "knitting", "swimming", "climbing", "drawing",
    "chess", "sailing", "riding",
)
INSTRUMENTS = ("flute", "violin", "drum", "piano", "guitar", "harp", "horn", "cello", "trumpet", "organ")
CONTAINERS = ("box", "bag", "basket", "drawer", "chest", "jar", "cupboard", "bucket", "trunk", "crate")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)
SEASONS = ("spring", "summer", "autumn", "winter")
WEATHER = ("sunny", "rainy", "windy", "cloudy", "foggy", "snowy", "warm", "cold")
FEELINGS = ("happy", "sad", "tired", "angry", "proud", "afraid", "hungry", "bored", "calm", "lonely")
NUMBERS_IN_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
COMMON = (  # further plain words, for spelling
    "about", "above", "after", "again", "always", "answer", "autumn", "because", "before", "begin", "behind",
    "between", "bread", "bring", "brother", "build", "butter", "carry", "cheese", "child", "children",
    "clean", "cloud", "coffee", "colour", "corner", "count", "country", "dance", "daughter", "dinner", "door",
    "dream", "drink", "early", "earth", "evening", "every", "family", "father", "feather", "field", "finger",
    "first", "floor", "flower", "follow", "forest", "fresh", "friend", "garden", "gentle", "glass", "grass",
    "hand", "happen", "heart", "heavy", "house", "hundred", "idea", "island", "kind", "kitchen", "large",
    "laugh", "leaf", "learn", "light", "listen", "little", "long", "lunch", "meadow", "milk", "minute",
    "money", "moon", "morning", "mother", "mountain", "music", "name", "narrow", "never", "night", "nothing",
    "number", "ocean", "often", "open", "paper", "parent", "people", "person", "picture", "piece", "place",
    "plant", "please", "pocket", "pretty", "promise", "question", "quick", "quiet", "rain", "remember",
    "river", "road", "round", "salt", "second", "shadow", "silver", "simple", "sister", "sleep", "slow",
    "small", "smile", "snow", "soft", "song", "soup", "stone", "story", "straight", "street", "strong",
    "sugar", "sweet", "table", "thank", "think", "thousand", "together", "tomorrow", "tree", "under",
    "village", "visit", "voice", "wait", "walk", "wall", "warm", "water", "week", "whisper", "window", "wind",
    "winter", "wonder", "wood", "word", "work", "world", "write", "year", "young",
)
# fmt: on

SINGULAR = {"cherries": "cherry", "potatoes": "potato", "tomatoes": "tomato", "peaches": "peach"}
PLURAL = {
    "mouse": "mice",
    "goose": "geese",
    "sheep": "sheep",
    "knife": "knives",
    "scarf": "scarves",
    "leaf": "leaves",
    "child": "children",
    "person": "people",
}


def singular(plural: str) -> str:
    """One of GOODS: cherries -> cherry, apples -> apple."""
    return SINGULAR.get(plural) or plural.removesuffix("s")


def plural(noun: str) -> str:
    """lamp -> lamps, box -> boxes, cherry -> cherries, knife -> knives."""
    if noun in PLURAL:
        return PLURAL[noun]
    if noun in SINGULAR.values():
        return next(many for many, one in SINGULAR.items() if one == noun)
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def article(phrase: str) -> str:
    """apple -> an apple; `one` and `un(i)` words do not begin with a vowel's sound."""
    vowel = phrase[0].lower() in "aeio" or (phrase[0].lower() == "u" and not phrase.startswith("uni"))
    return f"{'an' if vowel and not phrase.startswith('one') else 'a'} {phrase}"


def spelled() -> tuple[str, ...]:
    """Words of 3-9 plain letters for spelling and letter counting, sorted."""
    things = OBJECTS + GOODS + ANIMALS + INSTRUMENTS + CONTAINERS + PLACES + ROOMS + JOBS
    others = COLOURS + HOBBIES + FEELINGS + NUMBERS_IN_WORDS + SEASONS + WEATHER + COMMON
    return tuple(sorted({word for word in things + others if 3 <= len(word) <= 9}))


# A small model must meet each often enough; the last is what everybody asks.
SPELL_WORDS = (*spelled()[::2], "strawberry")
