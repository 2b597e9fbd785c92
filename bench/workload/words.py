"""Common English words. In nearly every vocabulary each is one token with the space before it."""

COMMON = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea kid body information
    back parent face others level office door health person art war history party result change morning reason research
    girl guy moment air teacher force education foot boy age policy music market sense nation plan college interest
    death experience effect use class control field development role effort rate heart drug show leader light voice
    wife police mind price report decision son view relationship town road arm difference value building action season
    society tax director position player record paper space ground form event official matter center couple site project
    base star table need court oil situation cost industry figure street image phone data picture practice piece land
    product doctor wall worker news test movie north love support technology step baby computer type attention film
    tree source hair window evidence population energy period course summer board glass answer skill sun chance army
    blood page goal deal risk green blue red white black big small old new long high low early late young first last
    good great little own other large next different important public able sure free true whole clear recent certain
    personal open hard strong possible major real best better simple left common poor natural easy single human local
    """.split()  # noqa: SIM905  # easier to read than a list of strings
)
