"""`shmr-fsck`: what is reached for when something broke.

    check            what is wrong, from metadata alone          `checking`: `tables`, `places`
    scrub            every byte read and verified                `scrub`
    repair           what redundancy allows is put right         `repair`
    rebuild-drive    what was on a lost drive, written anew      `rebuild_drive`
    rebuild-catalog  the catalog from log, snapshot and footers  `rebuild_catalog`
    decode           files out of drives, and nothing else       `decode`
    drill            a rehearsal that touches nothing            `drill`

Stands on `shmr.service` and everything below it. What is wrong is told in one language, that of
`findings`.
"""
