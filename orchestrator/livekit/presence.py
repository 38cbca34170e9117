"""Which participants count as the user of a call, and from when on.

Agents and the orchestrator share these rules; the module imports the standard library only. Participants have LiveKit's
kinds, by name: its SDK and its API number them differently. All other kinds are machines (agents, recorders, ingress,
bridges). A phone is in the room from the moment it is dialed; its call status tells whether it was answered.
"""

from collections.abc import Mapping

#: Kinds of participants that are people: a browser or app, a phone line, LiveKit's WhatsApp and Twilio connectors.
USER_KINDS = ("STANDARD", "SIP", "CONNECTOR")
#: Attribute of a SIP participant: `dialing`, `ringing`, `automation` (it still sends DTMF), `active`, `hangup`.
CALL_STATUS = "sip.callStatus"


def answered(kind: str, attributes: Mapping[str, str]) -> bool:
    """Return whether a participant of this kind (its name) is on the line.

    A phone is on the line after it was answered and until it hangs up. A service that sends no call status connects
    answered calls only.
    """
    # guard: ringing
    return kind in USER_KINDS and (kind != "SIP" or attributes.get(CALL_STATUS, "").lower() in {"", "active"})
