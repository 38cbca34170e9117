"""Who counts as the user of a call, and from when. Standard library only: agents and the orchestrator ask one table.

The kinds of participants are LiveKit's, by name: its SDK and its API number them differently. Others are machinery
(agents, recorders, ingress, bridges).
A phone is in the room from the moment it is dialed; its call status says when somebody has answered.
"""

from collections.abc import Mapping

#: Kinds of participants that are people: a browser or app, a phone line, LiveKit's WhatsApp and Twilio connectors.
USER_KINDS = ("STANDARD", "SIP", "CONNECTOR")
#: Attribute of a SIP participant: `dialing`, `ringing`, `automation` (it still sends DTMF), `active`, `hangup`.
CALL_STATUS = "sip.callStatus"


def answered(kind: str, attributes: Mapping[str, str]) -> bool:
    """Return whether a participant of this kind (its name) is on the line: a phone only once it is answered, and until
    it hangs up. A service that tells no status has answered calls only."""
    return kind in USER_KINDS and (kind != "SIP" or attributes.get(CALL_STATUS, "").lower() in {"", "active"})
