"""The words of the atlas world: real facts and small English, French and German word lists."""

from __future__ import annotations

from itertools import chain

# country capital language continent currency (one word each, so that a fact is one token)
_COUNTRIES = """
France Paris French Europe euro
Japan Tokyo Japanese Asia yen
Brazil Brasilia Portuguese America real
Egypt Cairo Arabic Africa pound
Germany Berlin German Europe euro
India Delhi Hindi Asia rupee
Canada Ottawa English America dollar
Kenya Nairobi Swahili Africa shilling
Italy Rome Italian Europe euro
China Beijing Chinese Asia yuan
Peru Lima Spanish America sol
Australia Canberra English Oceania dollar
Spain Madrid Spanish Europe euro
Thailand Bangkok Thai Asia baht
Cuba Havana Spanish America peso
Nigeria Abuja English Africa naira
Sweden Stockholm Swedish Europe krona
Vietnam Hanoi Vietnamese Asia dong
Chile Santiago Spanish America peso
Morocco Rabat Arabic Africa dirham
Poland Warsaw Polish Europe zloty
Iran Tehran Persian Asia rial
Ecuador Quito Spanish America dollar
Ghana Accra English Africa cedi
Greece Athens Greek Europe euro
Iraq Baghdad Arabic Asia dinar
Colombia Bogota Spanish America peso
Fiji Suva English Oceania dollar
Norway Oslo Norwegian Europe krone
Nepal Kathmandu Nepali Asia rupee
Jamaica Kingston English America dollar
Angola Luanda Portuguese Africa kwanza
Finland Helsinki Finnish Europe euro
Pakistan Islamabad Urdu Asia rupee
Uruguay Montevideo Spanish America peso
Senegal Dakar French Africa franc
Hungary Budapest Hungarian Europe forint
Mongolia Ulaanbaatar Mongolian Asia tugrik
Venezuela Caracas Spanish America bolivar
Tunisia Tunis Arabic Africa dinar
Portugal Lisbon Portuguese Europe euro
Indonesia Jakarta Indonesian Asia rupiah
Honduras Tegucigalpa Spanish America lempira
Zambia Lusaka English Africa kwacha
Denmark Copenhagen Danish Europe krone
Jordan Amman Arabic Asia dinar
Nicaragua Managua Spanish America cordoba
Uganda Kampala English Africa shilling
Austria Vienna German Europe euro
Lebanon Beirut Arabic Asia pound
Samoa Apia Samoan Oceania tala
Algeria Algiers Arabic Africa dinar
Ireland Dublin English Europe euro
Armenia Yerevan Armenian Asia dram
Paraguay Asuncion Spanish America guarani
Somalia Mogadishu Somali Africa shilling
Iceland Reykjavik Icelandic Europe krona
Romania Bucharest Romanian Europe leu
Ukraine Kyiv Ukrainian Europe hryvnia
Mozambique Maputo Portuguese Africa metical
Serbia Belgrade Serbian Europe dinar
Croatia Zagreb Croatian Europe euro
Russia Moscow Russian Europe ruble
Albania Tirana Albanian Europe lek
"""
_ROWS = tuple(tuple(line.split()) for line in _COUNTRIES.strip().splitlines())
RELATIONS = ("capital", "language", "continent", "currency")
FACTS: dict[str, dict[str, str]] = {
    relation: {row[0]: row[i + 1] for row in _ROWS} for i, relation in enumerate(RELATIONS)
}
COUNTRIES = tuple(row[0] for row in _ROWS)
CAPITALS = tuple(row[1] for row in _ROWS)

NAMES = tuple(
    """Mary John Anna Paul Emma Tom Laura Peter Alice David Sarah Mark Julia James Clara Simon Nina
    Oscar Helen Victor Rosa Felix Diana Martin Eva Leo Irene Hugo Vera Adam Lucy Max Ruth Carl Olga
    George Maya Frank Iris Henry Nora Walter Stella Bruno Ella Arthur Grace Ivan Zoe Edgar
    Sophie Ralph Marta Otto Jane Luke Tara Boris Lily Conrad""".split()
)
LAST_NAMES = tuple(
    """Carter Keller Moreau Rossi Novak Larsen Weber Fischer Dubois Silva Tanaka Murphy Cohen Bauer
    Lopez Marino Petrov Hansen Walker Foster Bishop Turner Palmer Hughes Garcia Schmidt Laurent
    Fontaine Berg Lindgren Kowalski Horvat Popescu Sato Mehta Okafor Mensah Haddad Costa Reyes
    """.split()
)
PROFESSIONS = tuple(
    """painter doctor lawyer singer baker farmer pilot judge dentist writer soldier sailor chemist
    poet actor banker tailor plumber dancer surgeon""".split()
)

# singular plural (subjects and distractors of agreement, keys of lists, words of the letter games)
_NOUNS = """
dog dogs|cat cats|key keys|box boxes|lamp lamps|book books|cup cups|chair chairs|door doors
coat coats|ring rings|knife knives|plate plates|clock clocks|shoe shoes|bag bags|letter letters
picture pictures|bottle bottles|basket baskets|boat boats|car cars|bird birds|horse horses
teacher teachers|farmer farmers|doctor doctors|singer singers|child children|woman women
man men|king kings|queen queens|boy boys|girl girls|friend friends|author authors|guard guards
cabinet cabinets|table tables
"""
PLURALS: dict[str, str] = {}
for _line in _NOUNS.strip().splitlines():
    for _pair in _line.split("|"):
        _singular, _plural = _pair.split()
        PLURALS[_singular] = _plural
SINGULARS = tuple(PLURALS)
SINGULAR_OF = {plural: singular for singular, plural in PLURALS.items()}
OBJECTS = SINGULARS[2:22]  # key ... car without the animals: things that a list can hold
ANIMATES = SINGULARS[24:38]
QUALITIES = tuple(
    """red blue green black white yellow pink brown grey golden silver wooden heavy light round
    flat broken clean dirty empty""".split()
)
ADJECTIVES = tuple("old new big small nice strange famous quiet bright cheap".split())
PLACES = tuple("store park school market station garden office library museum beach".split())
GIFTS = tuple("drink ticket flower present map coin kiss pen snack ball".split())


def _pairs(text: str) -> dict[str, str]:
    """``hot:cold tall:short`` as a table."""
    return {a: b for a, _, b in (pair.partition(":") for pair in text.split())}


# word pairs of the analogies that are not geography
OPPOSITES = _pairs(
    """hot:cold tall:short fast:slow rich:poor early:late hard:soft wet:dry loud:silent
    deep:shallow wide:narrow open:closed full:hollow strong:weak sweet:bitter safe:dangerous
    true:false young:aged happy:sad thick:thin sharp:blunt"""
)
COMPARATIVES = _pairs(
    """hot:hotter tall:taller fast:faster rich:richer early:earlier hard:harder
    wet:wetter loud:louder deep:deeper wide:wider strong:stronger sweet:sweeter safe:safer
    young:younger happy:happier thick:thicker sharp:sharper cold:colder short:shorter
    slow:slower"""
)
GENDERS = _pairs(
    """king:queen man:woman boy:girl father:mother son:daughter brother:sister
    uncle:aunt actor:actress prince:princess husband:wife nephew:niece waiter:waitress
    duke:duchess hero:heroine lion:lioness host:hostess"""
)
PASTS = _pairs(
    """walk:walked see:saw go:went eat:ate run:ran sing:sang write:wrote take:took
    give:gave sleep:slept buy:bought teach:taught find:found drive:drove fly:flew swim:swam
    speak:spoke break:broke draw:drew begin:began"""
)

# English, French (gender), German (gender); spellings differ in all three
_DICTIONARY = """
dog chien m Hund m|cat chat m Katze f|bird oiseau m Vogel m|horse cheval m Pferd n
book livre m Buch n|house maison f Haus n|tree arbre m Baum m|water eau f Wasser n
bread pain m Brot n|milk lait m Milch f|man homme m Mann m|woman femme f Frau f
child enfant m Kind n|king roi m König m|queen reine f Königin f|friend ami m Freund m
key clé f Schlüssel m|door porte f Tür f|window fenêtre f Fenster n|chair chaise f Stuhl m
sun soleil m Sonne f|moon lune f Mond m|star étoile f Stern m|sea mer f Meer n
flower fleur f Blume f|apple pomme f Apfel m|cheese fromage m Käse m|fish poisson m Fisch m
hand main f Faust f|head tête f Kopf m|heart coeur m Herz n|night nuit f Nacht f
day jour m Tag m|street rue f Straße f|city ville f Stadt f|ship navire m Schiff n
"""
DICTIONARY = tuple(
    tuple(entry.split())
    for line in _DICTIONARY.strip().splitlines()
    for entry in line.split("|")
    if not entry.startswith("hand ")  # English hand, German Hand: Faust is another word
)
FRENCH = {row[0]: row[1] for row in DICTIONARY}
GERMAN = {row[0]: row[3] for row in DICTIONARY}
FRENCH_ARTICLE = {
    row[1]: {"m": "le", "f": "la"}[row[2]] for row in DICTIONARY if row[1][0] not in "aeéhœo"
}
GERMAN_ARTICLE = {row[3]: {"m": "der", "f": "die", "n": "das"}[row[4]] for row in DICTIONARY}

# garden paths: verbs with an optional object, verbs without one, and main-clause verbs
OPTIONAL_OBJECT = tuple("hunted followed watched visited called helped chased painted".split())
NO_OBJECT = tuple("slept smiled waited coughed sneezed arrived laughed rested".split())
MAIN_VERBS = tuple("ran fell left vanished escaped stumbled returned hid".split())

VERBS = {"is": "are", "was": "were", "seems": "seem", "looks": "look"}
EMBEDDED = {"likes": "like", "sees": "see", "knows": "know"}
PREPOSITIONS = ("near", "behind", "beside", "under")
ENDINGS = {
    "English": ("here", "outside", "far"),
    "French": ("ici", "dehors", "loin"),
    "German": ("hier", "draußen", "weit"),
}
VERB_WORDS = (
    *chain.from_iterable((*VERBS.items(), *EMBEDDED.items(), *ENDINGS.values())),
    *PREPOSITIONS,
    *("greater", "smaller", "Yes", "No"),
)

NUMBERS = tuple(str(n) for n in range(1, 51))
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def all_words() -> set[str]:
    """Every word that a slot of the world can speak."""
    words: set[str] = set()
    for pool in (
        COUNTRIES,
        NAMES,
        LAST_NAMES,
        PROFESSIONS,
        SINGULARS,
        QUALITIES,
        ADJECTIVES,
        PLACES,
        GIFTS,
        OPTIONAL_OBJECT,
        NO_OBJECT,
        MAIN_VERBS,
        NUMBERS,
        LETTERS,
        ANIMATES,
        VERB_WORDS,
    ):
        words.update(pool)
    for table in (
        *FACTS.values(),
        PLURALS,
        OPPOSITES,
        COMPARATIVES,
        GENDERS,
        PASTS,
        FRENCH,
        GERMAN,
    ):
        words.update(table)
        words.update(table.values())
    words.update(FRENCH_ARTICLE.values(), GERMAN_ARTICLE.values())
    return words
