"""Words of the mini corpus in German, French, Italian and English.

One row is one meaning; the columns are ``German | French | Italian | English``. Nouns carry their gender, so
articles, contractions and agreement are computed in :mod:`local.mini.grammar` and never typed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gender = Literal["m", "f", "n"]

LANGS: tuple[str, ...] = ("deu", "fra", "ita", "eng")


@dataclass(frozen=True)
class Noun:
    """A countable noun: ``words`` and ``genders`` in the order of :data:`LANGS` (English has gender ``n``)."""

    words: tuple[str, str, str, str]
    genders: tuple[Gender, Gender, Gender, Gender]


@dataclass(frozen=True)
class Verb:
    """A transitive verb: for each language (infinitive, past participle or English past, present 3rd singular)."""

    infinitive: tuple[str, ...]
    past: tuple[str, ...]
    present: tuple[str, ...]


@dataclass(frozen=True)
class Adjective:
    """An adjective: German stem, French (m, f), Italian (m, f), English."""

    deu: str
    fra: tuple[str, str]
    ita: tuple[str, str]
    eng: str


def _rows(table: str) -> list[tuple[str, ...]]:
    rows = [tuple(cell.strip() for cell in line.split("|")) for line in table.strip().splitlines()]
    for row in rows:
        if len(row) != len(LANGS):
            raise ValueError(f"a lexicon row needs {len(LANGS)} columns, got {len(row)}: {row}")
    return rows


def _nouns(table: str) -> list[Noun]:
    nouns = []
    for row in _rows(table):
        pairs = [cell.rsplit(" ", 1) for cell in row[:3]]
        words = (*(word for word, _ in pairs), row[3])
        nouns.append(Noun(words, (*(gender for _, gender in pairs), "n")))  # type: ignore[arg-type]
    return nouns


def _verbs(table: str) -> list[Verb]:
    return [Verb(*zip(*(cell.split(";") for cell in row), strict=True)) for row in _rows(table)]


def _adjectives(table: str) -> list[Adjective]:
    def forms(cell: str) -> tuple[str, str]:
        masculine, _, feminine = cell.partition(";")
        return masculine, feminine or masculine

    return [Adjective(de, forms(fr), forms(it), en) for de, fr, it, en in _rows(table)]


PEOPLE = _nouns("""
Bäcker m         | boulanger m    | fornaio m     | baker
Krankenschwester f | infirmière f | infermiera f  | nurse
Bauer m          | fermier m      | contadino m   | farmer
Schüler m        | écolier m      | scolaro m     | schoolboy
Sängerin f       | chanteuse f    | cantante f    | singer
Maler m          | peintre m      | pittore m     | painter
Königin f        | reine f        | regina f      | queen
Richter m        | juge m         | giudice m     | judge
""")

RELATIVES = _rows("""
mein Onkel     | mon oncle     | mio zio           | my uncle
meine Tante    | ma tante      | mia zia           | my aunt
deine Tochter  | ta fille      | tua figlia        | your daughter
unser Freund   | notre ami     | il nostro amico   | our friend
""")

THINGS = _nouns("""
Tisch m      | table f       | tavolo m      | table
Stuhl m      | chaise f      | sedia f       | chair
Spiegel m    | miroir m      | specchio m    | mirror
Bild n       | tableau m     | quadro m      | picture
Tasche f     | sac m         | borsa f       | bag
Lampe f      | lampe f       | lampada f     | lamp
Regenschirm m | parapluie m  | ombrello m    | umbrella
Hut m        | chapeau m     | cappello m    | hat
Rucksack m   | sac à dos m   | zaino m       | backpack
Ring m       | bague f       | anello m      | ring
Fahrrad n    | vélo m        | bicicletta f  | bicycle
Gitarre f    | guitare f     | chitarra f    | guitar
Kleid n      | robe f        | vestito m     | dress
Messer n     | couteau m     | coltello m    | knife
Uhr f        | montre f      | orologio m    | watch
Computer m   | ordinateur m  | computer m    | computer
""")

LANDMARKS = _nouns("""
Tür f        | porte f       | porta f       | door
Fenster n    | fenêtre f     | finestra f    | window
Schrank m    | armoire f     | armadio m     | wardrobe
Haus n       | maison f      | casa f        | house
Baum m       | arbre m       | albero m      | tree
Kirche f     | église f      | chiesa f      | church
Schule f     | école f       | scuola f      | school
Brücke f     | pont m        | ponte m       | bridge
Brunnen m    | fontaine f    | fontana f     | fountain
Stadion n    | stade m       | stadio m      | stadium
""")

# Plurals: the Italian and French numbers need no article, French "un" agrees with the gender given here.
ANIMALS = _nouns("""
Pferde n     | chevaux m     | cavalli m     | horses
Hunde m      | chiens m      | cani m        | dogs
Katzen f     | chats m       | gatti m       | cats
Vögel m      | oiseaux m     | uccelli m     | birds
Kühe f       | vaches f      | mucche f      | cows
Schafe n     | moutons m     | pecore f      | sheep
Fische m     | poissons m    | pesci m       | fish
Hühner n     | poules f      | galline f     | hens
""")

VERBS = _verbs("""
kaufen;gekauft;kauft | acheter;acheté;achète | comprare;comprato;compra | buy;bought;is buying
verkaufen;verkauft;verkauft | vendre;vendu;vend | vendere;venduto;vende | sell;sold;is selling
suchen;gesucht;sucht | chercher;cherché;cherche | cercare;cercato;cerca | look for;looked for;is looking for
waschen;gewaschen;wäscht | laver;lavé;lave | lavare;lavato;lava | wash;washed;is washing
malen;gemalt;malt | peindre;peint;peint | dipingere;dipinto;dipinge | paint;painted;is painting
reparieren;repariert;repariert | réparer;réparé;répare | riparare;riparato;ripara | repair;repaired;is repairing
nehmen;genommen;nimmt | prendre;pris;prend | prendere;preso;prende | take;took;is taking
verstecken;versteckt;versteckt | cacher;caché;cache | nascondere;nascosto;nasconde | hide;hid;is hiding
wählen;gewählt;wählt | choisir;choisi;choisit | scegliere;scelto;sceglie | choose;chose;is choosing
bringen;gebracht;bringt | apporter;apporté;apporte | portare;portato;porta | bring;brought;is bringing
""")

HERDING = _rows("""
zählt     | compte    | conta    | counts
sieht     | voit      | vede     | sees
füttert   | nourrit   | nutre    | feeds
verkauft  | vend      | vende    | sells
""")

# The German "nicht" follows a definite object, hence the bracket.
MODALS = _rows("""
will        | veut         | vuole      | wants to
kann        | peut         | può        | can
muss        | doit         | deve       | must
darf_nicht  | ne doit pas  | non deve   | must not
""")

# The Italian infinitive carries "to me"; the French pronoun stands before the verb and elides.
FAVOURS = _rows("""
zeigen     | montrer    | mostrarmi   | show
leihen     | prêter     | prestarmi   | lend
schicken   | envoyer    | mandarmi    | send
geben      | donner     | darmi       | give
verkaufen  | vendre     | vendermi    | sell
bringen    | apporter   | portarmi    | bring
""")

# German brackets: what stands second and what closes the sentence, joined by "_".
COMINGS = _rows("""
kommt_zurück  | revient   | torna     | comes back
kommt_an      | arrive    | arriva    | arrives
fährt_ab      | part      | parte     | leaves
steht_auf     | se lève   | si alza   | gets up
""")

COLOURS = _adjectives("""
rot     | rouge         | rosso;rossa     | red
grün    | vert;verte    | verde           | green
blau    | bleu;bleue    | blu             | blue
gelb    | jaune         | giallo;gialla   | yellow
schwarz | noir;noire    | nero;nera       | black
weiß    | blanc;blanche | bianco;bianca   | white
""")

# German and English comparatives; French and Italian build theirs with an adverb.
COMPARISONS = _adjectives("""
größer    | grand;grande     | grande           | bigger
kleiner   | petit;petite     | piccolo;piccola  | smaller
schwerer  | lourd;lourde     | pesante          | heavier
teurer    | cher;chère       | caro;cara        | more expensive
älter     | ancien;ancienne  | antico;antica    | older
""")

CITIES = _rows("""
Hamburg     | Hambourg    | Amburgo     | Hamburg
Turin       | Turin       | Torino      | Turin
Athen       | Athènes     | Atene       | Athens
Moskau      | Moscou      | Mosca       | Moscow
Basel       | Bâle        | Basilea     | Basel
Krakau      | Cracovie    | Cracovia    | Krakow
Sevilla     | Séville     | Siviglia    | Seville
Genua       | Gênes       | Genova      | Genoa
Antwerpen   | Anvers      | Anversa     | Antwerp
Bologna     | Bologne     | Bologna     | Bologna
Nizza       | Nice        | Nizza       | Nice
Kopenhagen  | Copenhague  | Copenaghen  | Copenhagen
""")

VEHICLES = _rows("""
mit dem Zug      | en train    | in treno       | by train
mit dem Auto     | en voiture  | in macchina    | by car
mit dem Bus      | en bus      | in autobus     | by bus
mit dem Fahrrad  | à vélo      | in bicicletta  | by bike
mit dem Schiff   | en bateau   | in nave        | by ship
""")

WEEKDAYS = _rows("""
am Montag      | lundi     | lunedì     | on Monday
am Dienstag    | mardi     | martedì    | on Tuesday
am Mittwoch    | mercredi  | mercoledì  | on Wednesday
am Donnerstag  | jeudi     | giovedì    | on Thursday
am Freitag     | vendredi  | venerdì    | on Friday
am Samstag     | samedi    | sabato     | on Saturday
am Sonntag     | dimanche  | domenica   | on Sunday
""")

PAST_TIMES = WEEKDAYS + _rows("""
gestern        | hier                 | ieri                  | yesterday
heute Morgen   | ce matin             | stamattina            | this morning
letzten Monat  | le mois dernier      | il mese scorso        | last month
""")

FUTURE_TIMES = WEEKDAYS + _rows("""
morgen         | demain               | domani                | tomorrow
heute Abend    | ce soir              | stasera               | this evening
nächsten Monat | le mois prochain     | il mese prossimo      | next month
""")

WEATHER = _rows("""
regnet es_   | il va pleuvoir     | pioverà     | it will rain
schneit es_  | il va neiger       | nevicherà   | it will snow
wird es_heiß | il va faire chaud  | farà caldo  | it will be hot
wird es_kalt | il va faire froid  | farà freddo | it will be cold
""")

MONTHS = _rows("""
Januar     | janvier    | gennaio    | January
Februar    | février    | febbraio   | February
März       | mars       | marzo      | March
April      | avril      | aprile     | April
Mai        | mai        | maggio     | May
Juni       | juin       | giugno     | June
Juli       | juillet    | luglio     | July
August     | août       | agosto     | August
September  | septembre  | settembre  | September
Oktober    | octobre    | ottobre    | October
November   | novembre   | novembre   | November
Dezember   | décembre   | dicembre   | December
""")

# German takes the dative, French "de" and Italian "a" contract with the article.
PLACES = _rows("""
hinter  | derrière     | dietro      | behind
vor     | devant       | davanti a   | in front of
neben   | à côté de    | accanto a   | next to
unter   | sous         | sotto       | under
""")
